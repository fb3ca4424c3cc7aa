"""What is measured: from one confusion matrix to every score."""
