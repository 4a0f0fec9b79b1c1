"""Direct methods: singular value decompositions one after another, the error known without a second look."""
