module tools.example

go 1.27
