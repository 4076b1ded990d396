"""All workers of the gateway, and the models they serve."""
