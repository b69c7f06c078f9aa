//! Client protocols: Kafka, with its group coordinator.
