"""The data that comes in and goes out. It knows neither HTTP nor torch."""
