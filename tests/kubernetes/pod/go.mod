module nodeport.test/pod

go 1.26.0
