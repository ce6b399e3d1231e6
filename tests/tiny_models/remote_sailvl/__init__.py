"""Remote code in the manner of SAIL-VL2; these files are copied into the model folder."""
