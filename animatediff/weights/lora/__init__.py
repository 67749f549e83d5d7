"""LoRAs in every key format, through PEFT, removed exactly."""
