"""A request's life behind HTTP: validated, admitted, run, kept. It knows neither HTTP nor torch."""
