"""Subcutaneous insulin and glucose: virtual adults, their physiology, meals, and a glucose sensor."""
