"""The page shows machines and alarms in a browser and takes what people answer."""
