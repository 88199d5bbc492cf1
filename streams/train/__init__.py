"""From a trigger to a version: the trainer and the registrar."""
