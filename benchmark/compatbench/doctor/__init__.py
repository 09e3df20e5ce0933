"""Whether a suite can run on this machine: images, weights, published figures, the machine."""

from compatbench.doctor.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
