"""The task `own`: a file of questions and answers."""
