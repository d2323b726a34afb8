"""What every study runs on: pieces of work kept in files, their pool, searches, inference and pages."""
