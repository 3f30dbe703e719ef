"""The ground floor: the standard's nouns as pure values. Standard library only, no input or output."""
