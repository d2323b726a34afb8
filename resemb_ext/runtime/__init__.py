"""What commands and experiments share: whole files, progress, environment, peak memory."""
