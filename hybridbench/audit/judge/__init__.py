"""judge: observations compared with closed forms, with reasons for differences, and as tables; needs no torch."""
