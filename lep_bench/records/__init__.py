"""What a run leaves on disk: artifacts, results and samples."""
