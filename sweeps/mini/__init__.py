"""The embedded world: a tiny pretrained model and three generated domains, all made here."""
