"""A judge behind HTTP: the application, its limits and metrics, and the process that runs it."""
