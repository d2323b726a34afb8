"""What commands and experiments share: whole files, blocks of pages, progress, environment, living objects, peak memory."""
