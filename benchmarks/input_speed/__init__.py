"""Images per second that are read, decoded, cropped, batched and copied to the device."""
