"""What the pixels of a mask mean, wherever one is stored, trained on or scored (uint8)."""

BACKGROUND, PET = 0, 1
# Neither: the soft rim of a trimap, or anything else that no loss and no score counts.
IGNORE = 2
