"""What lies on the disk: the cache of results, records of jobs. It knows neither HTTP nor models."""
