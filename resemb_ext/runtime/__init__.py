"""What commands and experiments share: whole files, progress, the machine, memory."""
