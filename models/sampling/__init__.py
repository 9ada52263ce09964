"""From a trained network and a solver's options to images."""
