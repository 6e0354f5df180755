"""The data that comes in and goes out, and the plan that follows from it. It knows neither HTTP nor torch."""
