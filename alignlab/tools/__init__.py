"""What builds the bundled data, measures the benchmarks and prepares a course."""
