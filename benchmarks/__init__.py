"""What this project is compared with: the original's system, or a floor, side by side on one machine."""
