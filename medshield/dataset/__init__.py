"""The data set: what is in a folder, and what each image stands for."""
