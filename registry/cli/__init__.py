"""Words in, words out: one file for each family of verbs. The only room that prints or exits."""
