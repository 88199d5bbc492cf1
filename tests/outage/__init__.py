"""Kafka gone for minutes while servers are asked: ``make outage SECONDS=300``."""
