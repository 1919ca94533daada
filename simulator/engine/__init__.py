"""The batched core of every scenario: streams, patients, covariance, observation."""
