"""What everything else stands on: errors, files, configuration, environment, random streams, progress, processes."""
