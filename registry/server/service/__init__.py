"""What a registry does. Takes values and callers, knows neither HTTP nor SQL."""
