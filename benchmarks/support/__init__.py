"""What benchmarks share: their Kafka, their events, a measurement in a process of its own, their results."""
