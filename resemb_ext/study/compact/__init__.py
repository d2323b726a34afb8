"""What Adam's state in fewer bytes costs in gAUC."""
