"""What rows of new items are worth that were never trained."""
