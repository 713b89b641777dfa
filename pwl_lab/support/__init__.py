"""The foundation of the package: errors, files, configuration, environment, random streams, progress, processes."""
