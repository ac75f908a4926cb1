// The signature of a token, bit for bit as `cptr_core::recall` makes it: for each word of it the signs of all choices
// in the layers that the word sees are summed, and each sum is held against its mean, which follows it.
module unit_signature #(
  parameter int unsigned WORDS = 4,
  parameter int unsigned CHOICES = 512,
  parameter int unsigned ID = 8,
  parameter int unsigned CHOICE = $clog2(CHOICES),
  parameter int unsigned MEAN = $clog2(32 * WORDS)
) (
  input  logic                clk,
  input  logic                rst_n,
  // Shape: layers and choices of a layer, whose product is at most CHOICES and 4,095.
  input  logic [11:0]         layers,
  input  logic [6:0]          k,
  // A choice of the token, or none, by layer and rank.
  input  logic                put,
  input  logic [CHOICE-1:0]   put_at,
  input  logic                put_none,
  input  logic [ID-1:0]       put_expert,
  // `clear` forgets; `start` makes a signature of what was put.
  input  logic                clear,
  input  logic                start,
  output logic                done,
  output logic [32*WORDS-1:0] signature,
  output logic [31:0]         tokens,
  // The window for software.
  input  logic                window_read,
  input  logic                window_write,
  input  logic [MEAN-1:0]     window_address,
  input  logic [31:0]         window_data,
  output logic [31:0]         mean,
  input  logic                tokens_write
);
  localparam int unsigned WORD = $clog2(WORDS);

  typedef enum logic [3:0] {
    IDLE, CLEAR, WORD_START, LAYER_START, FROM, IDS, DRAIN, READ, SCALE, DIFFERENCE, HALF, FOLLOW, NEXT, WRITE
  } state_t;
  state_t state;
  logic [WORD-1:0] word;
  logic [11:0] layer, most;
  logic [CHOICE:0] row;
  logic [6:0] rank;
  logic [3:0] wait_steps;
  logic [5:0] bit_index;
  logic [MEAN:0] cleared;

  // Every how many layers a word sees one, as a power of two.
  logic [1:0] every;
  always_ff @(posedge clk) begin
    every <= 2'd0;
    if (WORDS >= 2 && layers >= 12'd8) every <= 2'd1;
    if (WORDS >= 4 && layers >= 12'd16) every <= 2'd2;
    if (WORDS >= 8 && layers >= 12'd32) every <= 2'd3;
  end
  wire [2:0] first_layer = 3'(word) & ~(3'd7 << every);

  logic [ID:0] choice;
  unit_ram #(.WIDTH(ID + 1), .DEPTH(CHOICES)) choices (
    .clk, .read(state == IDS), .read_address(CHOICE'(row + (CHOICE + 1)'(rank))), .read_data(choice),
    .write(put), .write_address(put_at), .write_data({put_none, put_expert})
  );

  // The hash: of layer and word, then from that of each choice.
  logic [31:0] hash_in, hashed, from;
  wire [31:0] place = (32'(layer) + 32'd1) ^ (32'(word) * 32'h9e37_79b9);
  assign hash_in = state == FROM ? place ^ (place >> 16) : from + 32'(choice[ID-1:0]);
  unit_hash hash (.clk, .in(hash_in), .out(hashed));
  // Choices on their way: asked for, read and hashed.
  logic asked;
  logic counts;
  unit_delay #(.WIDTH(1), .CYCLES(10)) counts_line (.clk, .in(asked & ~choice[ID]), .out(counts));

  // 32 sums, and the one whose mean is at hand.
  logic [32*12-1:0] sums;
  logic [11:0] sum;
  for (genvar i = 0; i < 32; i++) begin : counters
    always_ff @(posedge clk) begin
      if (state == WORD_START) sums[12*i+:12] <= '0;
      else if (counts && hashed[i]) sums[12*i+:12] <= sums[12*i+:12] + 12'd1;
    end
  end
  unit_pick #(.N(32), .WIDTH(12)) pick_sum (.entries(sums), .index(bit_index[4:0]), .entry(sum));

  // Sums are parts of what a signed word holds. A step a cycle: the mean moves by a part of the difference.
  logic [3:0] used, bits_used, shift, bits_of_tokens;
  logic [31:0] half;
  always_comb begin
    bits_used = '0;
    for (int i = 0; i < 12; i++) if (most[i]) bits_used = 4'(i + 1);
    bits_of_tokens = '0;
    for (int i = 0; i < 9; i++) if (tokens[i]) bits_of_tokens = 4'(i + 1);
    if (tokens[31:8] != '0) bits_of_tokens = 4'd9;
  end
  logic [11:0] picked;
  logic [31:0] scaled, difference, raised, moved, next_mean;
  logic above;
  always_ff @(posedge clk) begin
    used <= bits_used;
    shift <= bits_of_tokens;
    half <= (32'd1 << shift) >> 1;
    picked <= sum;
    scaled <= 32'(picked) << (5'd31 - 5'(used));
    difference <= scaled - mean;
    raised <= difference + half;
    moved <= $signed(raised) >>> shift;
    above <= ~difference[31] & difference != '0;
    next_mean <= mean + moved;
  end
  unit_ram #(.WIDTH(32), .DEPTH(32 * WORDS)) means (
    .clk,
    .read(state == READ | window_read),
    .read_address(window_read ? window_address : {word, bit_index[4:0]}),
    .read_data(mean),
    .write(state == WRITE | state == CLEAR | window_write),
    .write_address(window_write ? window_address : state == CLEAR ? cleared[MEAN-1:0] : {word, bit_index[4:0]}),
    .write_data(window_write ? window_data : state == CLEAR ? 32'd0 : next_mean)
  );
  for (genvar i = 0; i < WORDS; i++) begin : words
    for (genvar j = 0; j < 32; j++) begin : bits
      always_ff @(posedge clk)
        if (state == WRITE && word == WORD'(i) && bit_index[4:0] == 5'(j)) signature[32*i+j] <= above;
    end
  end

  logic all_tokens;
  wire last_bit = bit_index == 6'd31;
  wire last_word = word == WORD'(WORDS - 1);
  always_ff @(posedge clk) begin
    if (tokens_write) tokens <= window_data;
    else if (state == CLEAR) tokens <= '0;
    else if (state == WRITE && last_bit && last_word && !all_tokens) tokens <= tokens + 32'd1;
    all_tokens <= tokens == 32'hffff_ffff;
    if (state == FROM && wait_steps == 4'd10) from <= hashed;
  end
  wire [12:0] next_layer = {1'b0, layer} + (13'd1 << every);
  logic more_layers;
  always_ff @(posedge clk) more_layers <= next_layer < {1'b0, layers} & layer < layers;
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {word, layer, most, row, rank, wait_steps, bit_index, cleared, asked} <= '0;
      done <= 1'b0;
    end else begin
      done <= 1'b0;
      asked <= state == IDS;
      case (state)
        IDLE: begin
          {word, most, cleared} <= '0;
          if (clear) state <= CLEAR;
          else if (start) state <= WORD_START;
        end
        CLEAR: begin
          cleared <= cleared + 1'b1;
          if (cleared == (MEAN + 1)'(32 * WORDS - 1)) begin
            state <= IDLE;
            done <= 1'b1;
          end
        end
        WORD_START: begin
          layer <= 12'(first_layer);
          row <= (CHOICE + 1)'(first_layer) * (CHOICE + 1)'(k);
          state <= LAYER_START;
        end
        LAYER_START: begin
          wait_steps <= '0;
          rank <= '0;
          state <= layer < layers ? FROM : DRAIN;
        end
        // The hash is held until it comes out.
        FROM: begin
          wait_steps <= wait_steps + 4'd1;
          if (wait_steps == 4'd10) begin
            state <= IDS;
            if (word == '0) most <= most + 12'(k);
          end
        end
        IDS: begin
          rank <= rank + 7'd1;
          if (rank + 7'd1 == k) begin
            state <= DRAIN;
            wait_steps <= '0;
          end
        end
        DRAIN: begin
          wait_steps <= wait_steps + 4'd1;
          if (wait_steps == 4'd12) begin
            bit_index <= '0;
            row <= row + ((CHOICE + 1)'(k) << every);
            layer <= 12'(next_layer);
            state <= more_layers ? LAYER_START : READ;
          end
        end
        READ: state <= SCALE;
        SCALE: state <= DIFFERENCE;
        DIFFERENCE: state <= HALF;
        HALF: state <= FOLLOW;
        FOLLOW: state <= NEXT;
        NEXT: state <= WRITE;
        default: begin
          bit_index <= bit_index + 6'd1;
          state <= READ;
          if (last_bit) begin
            word <= word + 1'b1;
            state <= last_word ? IDLE : WORD_START;
            done <= last_word;
          end
        end
      endcase
    end
  end
endmodule
