"""What the optimization passes share: calibration, grids, layouts, sensitivities, parity."""
