"""The language of driftloop: events, topics, model specs and their codec."""
