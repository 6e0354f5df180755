"""The life of a request behind HTTP. It knows neither HTTP nor torch."""
