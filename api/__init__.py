"""HTTP lives here alone: routes, bodies, responses, access, the connections themselves."""
