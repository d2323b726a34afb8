"""What served tables of 16, 8 and 4 bits cost in gAUC."""
