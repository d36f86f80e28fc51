"""What is on disk: file, instance, frame, series, volume, study, patient, person."""
