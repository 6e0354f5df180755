"""What lies on the disk: results, the cache's records of them, records of jobs. It knows neither HTTP nor models."""
