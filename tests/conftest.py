"""How every test in this tree is run."""

from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing about a promise.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")
