"""How `VideoPredictor` follows objects: sessions, their state, and the compiled steps."""
