"""Feature networks, in whose features sets of images are compared."""

from ncsn.evaluation.features.network import (
    FeatureName,
    FeatureNetwork,
    Features,
    extract_features,
    load_features,
    read_features,
    save_features,
)

__all__ = [
    "FeatureName",
    "FeatureNetwork",
    "Features",
    "extract_features",
    "load_features",
    "read_features",
    "save_features",
]
