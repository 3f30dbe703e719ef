"""The images of this machine: blobs, unpacked layers, names; and a directory made into a layer again."""
