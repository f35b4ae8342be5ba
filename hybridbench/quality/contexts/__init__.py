"""contexts: trained models beyond the length that they were trained at: loss by position, and needles in a haystack."""
