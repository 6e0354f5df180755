"""The data that comes in and goes out, as pydantic models and dataclasses. It knows neither HTTP nor torch."""
