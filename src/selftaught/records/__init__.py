"""The words of the project: problems, samples, trainings, measurements, errors, seeds."""
