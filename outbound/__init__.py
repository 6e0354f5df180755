"""HTTP that this service starts itself: heartbeats to the registry, webhooks. It knows neither requests nor models."""
